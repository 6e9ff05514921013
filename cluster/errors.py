"""Every error we raise on purpose.

    MainspringError
      InvalidInput          400  a field, its value and what would be right
      Unauthorized          401
      IntentRefused         403  a token that is not for what is asked with it
      NotFound              404  kind and id
      Conflict              409  what is already so
        StaleEpoch          409  a writer that has lost its lease
        EffectUnknown       409  only a person can say whether it was done
      Overloaded            429  a queue is full; retry_after_s
      Unavailable           503  a part is down or still starting; retry_after_s
      DeadlineExceeded      504  what was waited for, and how long
      ConfigError           500  stops the start; field, value, expected
      DataError             500  a stored file or row is not what it should be

Each class passes its fields to Exception.__init__ and writes the sentence in __str__, so that it
crosses process boundaries whole (pickle rebuilds an exception from its args).
"""

from typing import ClassVar


class MainspringError(Exception):
    """Base of all of them. `code` is stable and machine-readable; `status` is an HTTP status."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    @property
    def field(self) -> str | None:
        """The request or settings field at fault, when there is one."""
        return None

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which trying again makes sense, when it does."""
        return None


class _FieldError(MainspringError):
    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(name, value, expected)
        self.name, self.value, self.expected = name, value, expected

    @property
    def field(self) -> str | None:
        return self.name

    def __str__(self) -> str:
        shown = repr(self.value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        return f"{self.name} is {shown}; expected {self.expected}"


class InvalidInput(_FieldError):
    """A caller's mistake: names the field, shows the value, says what would be right."""

    code = "invalid_value"
    status = 400


class ConfigError(_FieldError):
    """A wrong setting: stops the start."""

    code = "invalid_configuration"


class Unauthorized(MainspringError):
    code = "invalid_api_key"
    status = 401

    def __str__(self) -> str:
        return "a valid API key is needed: send it as 'Authorization: Bearer KEY'"


class IntentRefused(MainspringError):
    """A connector does nothing on this token. `reason` is a word, `detail` the sentence."""

    code = "intent_refused"
    status = 403

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"intent refused, {self.reason}: {self.detail}"

    @property
    def passing(self) -> bool:
        """Whether a new token for the same may be accepted."""
        return self.reason in {"expired", "rotated", "early"}


class NotFound(MainspringError):
    code = "not_found"
    status = 404

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(kind, id)
        self.kind, self.id = kind, id

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.id!r}"


class Conflict(MainspringError):
    code = "conflict"
    status = 409

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


class StaleEpoch(Conflict):
    """A writer whose lease another owner has taken over; it must stop."""

    code = "stale_epoch"


class EffectUnknown(Conflict):
    """An effect was started, and nothing can tell whether it was done; a person has to."""

    code = "effect_unknown"


class _Retryable(MainspringError):
    def __init__(self, what: str, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(what, reason, retry_after)
        self.what, self.reason, self.retry_after = what, reason, retry_after

    @property
    def retry_after_s(self) -> float | None:
        return self.retry_after

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


class Overloaded(_Retryable):
    code = "overloaded"
    status = 429


class Unavailable(_Retryable):
    code = "unavailable"
    status = 503


class DeadlineExceeded(MainspringError):
    code = "deadline_exceeded"
    status = 504

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, seconds)
        self.what, self.seconds = what, seconds

    def __str__(self) -> str:
        return f"{self.what} took longer than {self.seconds:g} s"


class Hurried(DeadlineExceeded):
    """The deadline that passed is the caller's own choice, and no fault of the system."""

    status = 408


class DataError(MainspringError):
    code = "corrupt_data"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"
