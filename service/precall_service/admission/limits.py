"""The limits of the admission, and the check whether one more turn may wait."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.domain.errors import Reason, ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How many turns may wait and run, and how long a turn keeps its share while its tools run.

    Attributes:
        running_per_tenant_max: The turns of one tenant that may hold a share at once; None: all.
        hold_s: Most tools answer within a second or two (86 to 95 % in published coding traces).
            After this time a held share costs other turns more than the re-prefill costs this one.
        wait_max_s: How long a turn may wait until it is admitted, its first prompt included.
        positions_s: How often waiting turns are told their queue positions, at most.
        prompts_at_once: How many prompts are made at once.
        token_latency_s: The time that a token may take, on average; None: any time.
    """

    waiting_max: int = 1024
    waiting_per_tenant_max: int = 256
    running_per_tenant_max: int | None = None
    hold_s: float = 5.0
    wait_max_s: float = 600.0
    positions_s: float = 0.5
    prompts_at_once: int = 1
    retry_after_s: float = 1.0
    token_latency_s: float | None = None

    def check_room(self, tenant: str, *, of_tenant: int, in_all: int) -> None:
        """Raises if one more turn of the tenant may not wait; so many of it, and in all, do.

        A tenant may have no more turns waiting than there are free places, which is the dynamic
        threshold of Choudhury and Hahne. So a few tenants cannot fill the queue: the last places go
        to those who wait for least. The texts tell a tenant nothing about the turns of others.

        Raises:
            ServiceError: OVERLOADED.
        """
        if of_tenant >= self.waiting_per_tenant_max:
            why = f"tenant {tenant!r} has {of_tenant} turns waiting, which is the limit per tenant"
        elif in_all >= self.waiting_max:
            why = "the queue of this server is full"
        elif of_tenant >= self.waiting_max - in_all:
            why = (
                f"the queue of this server is nearly full, and tenant {tenant!r} has {of_tenant} "
                "turns in it: the other places are for tenants that have fewer"
            )
        else:
            return
        raise ServiceError(
            Reason.OVERLOADED,
            f"{why}: try again in {self.retry_after_s:g} s, or on another replica",
            retry_after_s=self.retry_after_s,
            metadata={"waiting": str(of_tenant)},
        )
