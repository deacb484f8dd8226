"""The points of a run over HTTP, all from one model in memory."""

from __future__ import annotations

import copy
import sys

from entries.serve_settings import ServeSettings
from evaluators.paths import Paths
from evaluators.session import Session
from search.views.watch.run import Watch
from serving.api.app import Service
from serving.api.log import RequestLog
from serving.api.metrics import Metrics
from serving.api.server import guarded_app, serve_until_stopped
from serving.controllers import smallest_of
from serving.difficulty import Fit, LossModel
from serving.fitting import fitted_losses
from serving.live import Live
from serving.points import ends_of, open_points
from serving.requests import Served
from serving.scheduler import Scheduler
from serving.senses import Senses
from serving.switching import Switching
from serving.warming import Warming
from space.listening import address_of, listening_socket
from space.locations import LIVE_FILE, SERVING_DIRECTORY


def serve(settings: ServeSettings, watch: Watch) -> None:
    """Opens the run and serves until it is ended."""
    with listening_socket(settings.host, settings.port, "serving") as listening:  # a port in use is told at once
        session = Session.open(settings.session, Paths(settings.run.run_dir), watch.stage)
        with watch.stage("model"):
            _ = session.supernet
        with watch.stage("points") as show:
            points = open_points(session, settings.candidates, show)
        watch.say([points.remark()])
        place, port = settings.run.run_dir / SERVING_DIRECTORY, listening.getsockname()[1]
        place.mkdir(exist_ok=True)
        metrics, log = Metrics(), RequestLog(sys.stderr)
        live = Live(place / LIVE_FILE.format(port), address_of(settings.host, port), settings.controller.name)

        def served(request: Served) -> None:
            metrics.served(request)
            live.served(request)
            if settings.log:
                log.served(request)

        loaded, limits = session.loaded, settings.limits
        ends = ends_of(loaded.model, loaded.tokenizer)
        controller, tokenizer = settings.controller, copy.deepcopy(loaded.tokenizer)
        scheduler = Scheduler(points.models, tokenizer, ends, limits, served, switching=_switching(settings))
        smallest = smallest_of(settings.offers)

        def fit() -> tuple[LossModel, Fit]:
            digest = settings.session.text.digest or session.text.digest
            with watch.stage("difficulty") as show:
                fitted = fitted_losses(points.models, smallest, lambda: session.text, digest, place, show)
            watch.say([fitted[1].remark()])
            return fitted

        controller.begin(Senses(points.models, smallest, scheduler, fit, place))
        if unmeasured := Warming(points.models, scheduler, place).begin():
            watch.say([f"the speeds of {unmeasured} points are measured between requests"])
        scheduler.start()
        live.start(scheduler)
        try:
            service = Service(
                name=loaded.spec.name,
                offers=settings.offers,
                controller=controller,
                scheduler=scheduler,
                tokenizer=loaded.tokenizer,
                vocab=loaded.spec.vocab,
                context=limits.context or loaded.model.config.max_position_embeddings,
            )
            app = guarded_app(service, metrics, settings.host, settings.token)
            serve_until_stopped(app, listening, settings.host, settings.token, scheduler.close, watch.say)
        finally:
            live.close()
            scheduler.close()


def _switching(settings: ServeSettings) -> Switching | None:
    """Who goes on with whose texts; None where that is not wanted."""
    if not settings.controller.switching:
        return None
    able = {(offer.id, heir): there for offer in settings.offers for heir, there in offer.heirs.items()}
    return Switching(able, settings.controller.again)
