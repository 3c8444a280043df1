"""Reports and pictures of a computed dose."""
