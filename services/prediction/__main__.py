"""`python -m services.prediction`: wiring."""

from services.prediction.app import create_app
from shared.bus import Bus
from shared.entry import run_service
from shared.http.access import access_of
from shared.http.server import serve
from shared.http.tls import Certificate
from shared.messages import utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, Settings


def main(settings: Settings, fleets: Fleets) -> None:
    app = create_app(
        bus=Bus.connect(settings.redis_url),
        fleets=fleets,
        store=PolicyStore.of(settings),
        clock=utc_now,
        access=access_of(settings),
    )
    certificate = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        certificate = Certificate(settings.tls_cert_file, settings.tls_key_file)
    serve(app, settings.host, settings.prediction_port, certificate)


if __name__ == "__main__":
    run_service("prediction", main)
