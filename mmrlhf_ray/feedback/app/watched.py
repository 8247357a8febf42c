"""/healthz and /metrics: for those who watch over the app."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from sqlalchemy import func, select

from mmrlhf_ray.feedback.app.access import Anybody, AsClient
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect.outbox import waiting_messages
from mmrlhf_ray.feedback.collect.tables import Annotator, Audit, Item, Lease, Review, Skip, Vote

router = APIRouter()


@router.get("/healthz", dependencies=[Anybody])
def health(state: State) -> Response:
    """200 where the database answers, else 503."""
    with state.database.read() as session:
        session.execute(select(1))
    return JSONResponse({"status": "ok"})


@router.get("/metrics")
def metrics(caller: AsClient, state: State) -> Response:
    """Prometheus' text format. Figures come from the database, so that those of several servers agree."""
    registry = CollectorRegistry()

    def gauge(name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"mmrlhf_feedback_{name}", about, labels, registry=registry)

    done = Item.votes >= Item.overlap
    with state.database.read() as session:
        items = gauge("items", "Items in the queue, gold ones included.", "question", "state")
        for question, full, count in session.execute(
            select(Item.question, done, func.count()).group_by(Item.question, done)
        ):
            items.labels(question, "done" if full else "open").set(count)
        wanted = select(func.sum(Item.overlap - Item.votes)).where(Item.gold.is_(None), ~done)
        gauge("votes_wanted", "Votes that open items still need.").set(session.scalar(wanted) or 0)
        votes = gauge("votes", "Votes in force.", "question")
        for question, count in session.execute(
            select(Vote.question, func.count()).where(~Vote.undone).group_by(Vote.question)
        ):
            votes.labels(question).set(count)
        skips = gauge("skips", "Items skipped.", "reason")
        for reason, count in session.execute(select(Skip.reason, func.count()).group_by(Skip.reason)):
            skips.labels(reason).set(count)
        accounts = gauge("accounts", "Open accounts.", "role")
        for role, count in session.execute(
            select(Annotator.role, func.count()).where(Annotator.active).group_by(Annotator.role)
        ):
            accounts.labels(role).set(count)
        held = select(func.count()).select_from(Lease).where(Lease.expires > state.now())
        gauge("leases", "Items that somebody holds now.").set(session.scalar(held) or 0)
        gauge("reviews", "Decisions of reviewers.").set(session.scalar(select(func.count()).select_from(Review)) or 0)
        failed = select(func.count()).select_from(Audit).where(Audit.action == "login failed")
        gauge("logins_failed", "Failed logins, ever.").set(session.scalar(failed) or 0)
        gauge("webhook_waiting", "Messages that have not arrived.").set(waiting_messages(session))
        last = session.scalar(select(func.max(Vote.created)))
        gauge("last_vote_seconds", "Unix time of the last vote; 0 = none.").set(last.timestamp() if last else 0)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
