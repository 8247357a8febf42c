"""Delivers the outbox to the address of `webhook`, from a thread of the app.

Each message is a POST of JSON with the headers X-Mmrlhf-Event, X-Mmrlhf-Delivery (its id, the same in every attempt)
and X-Mmrlhf-Signature: sha256=<HMAC of the body by the secret>. Any answer from 200 to 299 means that it has arrived.
"""

import hashlib
import hmac
import json
import logging
import threading
from datetime import UTC, datetime

import httpx
from sqlalchemy.exc import SQLAlchemyError

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.outbox import Due, anything_due, claim_due, delivered, failed

_LOOK_EVERY_S = 0.5
_TIMEOUT_S = 10.0
_log = logging.getLogger("uvicorn.error")


def signature(secret: str, body: bytes) -> str:
    """The value of X-Mmrlhf-Signature."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Deliveries:
    """A thread that delivers until close()."""

    def __init__(self, config: FeedbackConfig, database: Database) -> None:
        assert config.webhook is not None
        self._webhook, self._database = config.webhook, database
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feedback-webhooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the attempt under way, and end. What has not arrived is delivered after the next start."""
        self._closing.set()
        self._thread.join(_TIMEOUT_S + 1)

    def _work(self) -> None:
        # Redirects are not followed: the address in the configuration is the one that is trusted.
        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as http:
            while not self._closing.wait(_LOOK_EVERY_S):
                try:
                    self._deliver_due(http)
                except SQLAlchemyError as error:
                    _log.error("webhooks: the database does not answer: %s", error)

    def _deliver_due(self, http: httpx.Client) -> None:
        with self._database.read() as session:  # most of the time there is nothing, and votes need not wait for it
            if not anything_due(session, datetime.now(UTC)):
                return
        with self._database.write() as session:
            due = claim_due(session, datetime.now(UTC))
        for message in due:
            if self._closing.is_set():
                return
            problem = self._attempt(http, message)
            with self._database.write() as session:
                if problem is None:
                    delivered(session, message.id)
                else:
                    failed(session, message, datetime.now(UTC))
            if problem is not None:
                _log.warning("webhooks: %s, attempt %d: %s", message.event, message.attempts, problem)

    def _attempt(self, http: httpx.Client, message: Due) -> str | None:
        """Why it did not arrive; None where it did."""
        body = json.dumps({"event": message.event, **message.body}, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "x-mmrlhf-event": message.event,
            "x-mmrlhf-delivery": message.id,
            "x-mmrlhf-signature": signature(self._webhook.secret.get_secret_value(), body),
        }
        try:
            answer = http.post(self._webhook.url, content=body, headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"status {answer.status_code}"
