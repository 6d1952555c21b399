"""guardIdentities: nobody but the control plane makes a token with which to pass for a trusted service account."""

from __future__ import annotations

from typing import Final

from webhook import meta
from webhook.admission import Review
from webhook.policy import Snapshot
from webhook.text import cut, escaped

#: Stands where a policy's name does.
GUARD: Final = "(guardIdentities)"
_ACCOUNT: Final = "kubernetes.io/service-account.name"


def guarded_account(review: Review, snapshot: Snapshot) -> str:
    """The trusted service account that this write would mint a token for; empty if none.

    A TokenRequest is one way, a Secret of type service-account-token, which the token controller fills, the other.
    """
    if review.resource.group or review.operation not in ("CREATE", "UPDATE"):
        return ""
    if review.resource.resource == "serviceaccounts" and review.subresource == "token":
        name = review.name
    elif review.resource.resource == "secrets" and not review.subresource:
        new = review.new or {}
        if new.get("type") != "kubernetes.io/service-account-token":
            return ""
        if snapshot.config.trusted.find(review.user) is not None:
            return ""
        name = str(meta.annotations_of(new).get(_ACCOUNT, ""))
        # An update that leaves the account as it was mints nothing.
        if review.old is not None and meta.annotations_of(review.old).get(_ACCOUNT) == name:
            return ""
    else:
        return ""
    if any(writers.names_account(review.namespace, name) for writers in snapshot.guarded):
        return f"{review.namespace}/{name}"
    return ""


def denial(review: Review, account: str) -> str:
    """The text for whoever tried."""
    return (
        f"Service account {cut(escaped(account), 160)} is a trusted GitOps identity: "
        f"{cut(escaped(review.user.username), 100)} may not mint a token for it.\n"
        "Rule guardIdentities of the DriftwallConfig: nobody but the control plane does.\n"
        "Change what you want to change in Git. A tool that needs a token needs a service account of its own."
    )
