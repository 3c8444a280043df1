"""What spinedose says of a patient or a scenario, in the words of the study file that asked for it."""

from __future__ import annotations

from spinedose.errors import SpinedoseError

TABLES = {
    "plan": "patients", "bolus": "patients", "missing_slices": "patients",
    "machine": "settings", "curve": "settings", "couch": "settings", "fine": "settings", "backend": "settings",
    "protocol": "measured", "prescription_gy": "measured", "chosen": "measured",
}  # fmt: skip
"""Where the key of an argument stands in a study file; others have no key."""

WITHOUT_KEY = {
    "ct": "Have the CT of the plan in the patient's folder, and no other",
    "structures": "Have the structure set of the plan in the patient's folder, and no other",
}
"""What to do about arguments that a study file has no key for."""

LEAVE_OUT = (
    "A study file has no key for that: mend the patient's files, or leave the folder out (exclude in [patients])"
)


def in_study_words(error: SpinedoseError) -> str:
    """A message that names keys of a study file where the error names an argument of Python.

    `Choose one by label, UID or file with `plan`` reads `Choose one by label, UID or file with 'plan' in [patients]`.
    """
    name, _, value = error.argument.partition("=")
    if not name:
        return str(error)
    if name in TABLES:
        key = f"{name} = {value}" if value else f"'{name}'"
        return error.spelled_with(f"{key} in [{TABLES[name]}]")
    return str(SpinedoseError(error.problem, error.why, WITHOUT_KEY.get(name, LEAVE_OUT)))
