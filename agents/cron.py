"""When a schedule is due: cron lines of five fields, by the library `cronsim`."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from cluster.errors import InvalidInput


def next_time(cron: str, zone: str, after: float) -> float:
    """The first time behind `after` (both seconds since the epoch) that `cron` names in `zone`.

    InvalidInput for a line that is none or never comes true, and for an unknown time zone.
    """
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput("zone", zone, "a time zone such as UTC or Europe/Berlin") from None
    begin = datetime.fromtimestamp(after, UTC).astimezone(place)
    try:
        found = next(CronSim(cron, begin))
    except CronSimError as error:
        raise InvalidInput("cron", cron, f"five fields such as '0 9 * * 1-5' ({error})") from None
    except StopIteration:
        raise InvalidInput(
            "cron", cron, "a line that comes true some day; this one never"
        ) from None
    return found.timestamp()
