"""Every error that driftwall raises on purpose, in one tree.

DriftwallError
├── MalformedReview      the caller sent no valid AdmissionReview: an HTTP 4xx
├── Overloaded           there is no memory for one more review now: an HTTP 503
├── LookupFailed         an object that the verdict depends on could not be had: an HTTP 500
│   └── NotRecorded      it is not in what was recorded, so the verdict cannot be known
├── PolicyError          the policies do not load; carries every problem found
├── SettingsError        a flag or an environment variable is wrong
├── CertificateError     a certificate or key cannot be read, does not match, or is not valid
│   └── NotYetValid      it will be: somebody's clock is wrong
├── ClusterError         the API server refused or failed a call that no review waits for
│   └── Conflict         somebody else wrote the object first
└── PushFailed           a Pushgateway does not take the metrics of a scan

A refused write is no error: it is a Decision.
"""


class DriftwallError(Exception):
    """The base of all; its text is a sentence for a person: what, where, why, what to do."""


class MalformedReview(DriftwallError):
    """The request is no AdmissionReview that driftwall can decide.

    ``status`` is the HTTP status to answer with.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Overloaded(DriftwallError):
    """So much is being decided that there is no memory for one more review; the caller tries again."""


class LookupFailed(DriftwallError):
    """An object that the verdict depends on could not be read; the review fails closed."""


class NotRecorded(LookupFailed):
    """What was recorded does not hold an object that the verdict depends on.

    ``reason`` is one of few, to be counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PolicyError(DriftwallError):
    """The policies do not load. ``problems`` holds one line of text for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SettingsError(DriftwallError):
    """A flag or an environment variable has a value that cannot be used."""


class CertificateError(DriftwallError):
    """A certificate or key cannot be read, does not match, or is not valid now."""


class NotYetValid(CertificateError):
    """A certificate is valid later: a reason to look at the clock, and none to replace it."""


class ClusterError(DriftwallError):
    """The API server refused or failed a call of driftwall's own upkeep, which tries again."""


class Conflict(ClusterError):
    """Somebody else wrote the object since it was read; read it again."""


class PushFailed(DriftwallError):
    """A Pushgateway does not have the metrics of a scan; what the scan has found holds all the same."""
