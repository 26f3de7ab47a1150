"""Whatever the order of acts, no store serves a stale or expired entry, or another tenant's."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.support.cache_machine import CacheMachine
from tests.support.cache_stores import InMemory, InRedis
from tests.support.redis_server import RedisServer


class RoomyMemory(CacheMachine):
    """Nothing is lost, so everything that is fresh must be served."""

    roomy = True

    def make(self) -> InMemory:
        return InMemory()


class TightMemory(CacheMachine):
    """Entries and versions are dropped to make room, and the store is restarted."""

    roomy = False

    def make(self) -> InMemory:
        return InMemory(bytes_max=200, nodes_max=3)

    @rule()
    def restart(self) -> None:
        self.lose()


TestRoomyMemory = RoomyMemory.TestCase
TestRoomyMemory.settings = settings(max_examples=80, stateful_step_count=40)
TestTightMemory = TightMemory.TestCase
TestTightMemory.settings = settings(max_examples=80, stateful_step_count=40)


def test_roomy_redis(shared_redis: RedisServer) -> None:
    class RoomyRedis(CacheMachine):
        """Nothing is lost, so everything that is fresh must be served."""

        roomy = True

        def make(self) -> InRedis:
            return InRedis(shared_redis)

    run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
        RoomyRedis, settings=settings(max_examples=25, stateful_step_count=30)
    )


def test_tight_redis(shared_redis: RedisServer) -> None:
    class TightRedis(CacheMachine):
        """Versions are dropped to make room, and Redis loses everything now and then."""

        roomy = False

        def make(self) -> InRedis:
            return InRedis(shared_redis, nodes_max=3)

        @rule()
        def restart(self) -> None:
            self.lose()

    run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
        TightRedis, settings=settings(max_examples=25, stateful_step_count=30)
    )
