"""One line to whoever looks after the project: the log always, a webhook where one is set."""

import json
import logging
import urllib.request

_TIMEOUT_S = 10


def send_alert(webhook: str | None, text: str, log: logging.Logger) -> None:
    """Log `text`, and POST `{"text": text}` (the form that Slack, Mattermost and Teams workflows take) to `webhook`.

    A webhook that does not answer is logged and no more: an alert must never fail what it reports on.
    """
    log.warning(text)
    if webhook is None:
        return
    body = json.dumps({"text": f"distill_assets: {text}"}).encode("utf-8")
    try:
        request = urllib.request.Request(webhook, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        log.error(f"alert_webhook did not take the alert: {type(error).__name__}: {error}")
