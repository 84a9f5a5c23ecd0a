"""`python -m services.matchmaking`: wiring."""

from services.matchmaking.app import create_app
from shared.bus import Bus
from shared.entry import run_service
from shared.http.access import access_of
from shared.http.server import serve
from shared.messages import utc_now
from shared.settings import Fleets, Settings


def main(settings: Settings, fleets: Fleets) -> None:
    app = create_app(
        bus=Bus.connect(settings.redis_url),
        fleets=fleets,
        clock=utc_now,
        access=access_of(settings),
    )
    serve(app, settings.host, settings.matchmaking_port)


if __name__ == "__main__":
    run_service("matchmaking", main)
