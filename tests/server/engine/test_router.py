"""Which replica gets a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from server.contract.params import GenerationParams
from server.engine.base import Job
from server.engine.prefixes import BLOCK, chain
from server.engine.replica import FORGET_S, Replica
from server.engine.router import Router
from server.engine.ticket import Ticket
from server.weights.adapters import Adapter
from tests.timing import cost_s


class Fleet:
    """Replicas, and the time. token_s: what a token of a prompt takes there."""

    def __init__(self, num_replicas: int = 3, num_places: int = 256, token_s: float = 1e-4) -> None:
        self.now = 0.0
        self.token_s = token_s
        self.router = Router(lambda: self.now)
        self.replicas = [self.router.replica(number, num_places) for number in range(num_replicas)]
        self.num_tickets = 0

    def send(
        self,
        prompt: Sequence[int],
        among: Sequence[int] = (),
        senders: int = 1,
        salt: str | None = None,
        prompt_logprobs: bool = False,
        adapter: Adapter | None = None,
    ) -> tuple[Ticket, int]:
        """The ticket, and where it went."""
        self.num_tickets += 1
        name, params = str(self.num_tickets), GenerationParams(cache_salt=salt)
        job = Job(name, name, [*prompt], params, (), 1000, prompt_logprobs=prompt_logprobs, adapter=adapter)
        ticket = Ticket(self.num_tickets, job, lambda output: None, lambda one: None, lambda one: None)
        replicas = [self.replicas[number] for number in among] or self.replicas
        return ticket, self.router.place(ticket, replicas, senders).number

    def where(self, prompt: Sequence[int], among: Sequence[int] = ()) -> int:
        """Where it would go; it begins and ends there at once."""
        ticket, number = self.send(prompt, among)
        self.replicas[number].leave(ticket)
        return number

    def begin(self, ticket: Ticket, after_s: float | None = None) -> None:
        """Its first token."""
        replica = self.on(ticket)
        assert ticket.route is not None
        self.now += self.token_s * ticket.route.num_ahead if after_s is None else after_s
        ticket.delivered.append(0)
        self.router.began(ticket, replica)

    def end(self, ticket: Ticket, token_s: float = 0.01, num_tokens: int = 50) -> None:
        """So many tokens after the first, and no more."""
        replica = self.on(ticket)
        self.now += token_s * num_tokens
        ticket.delivered += range(1, num_tokens + 1)
        self.router.ended(ticket, replica)
        replica.leave(ticket)

    def work(self, number: int, token_s: float, num_jobs: int = 5) -> None:
        """Jobs one after the other on that replica, at that speed."""
        for _ in range(num_jobs):
            ticket, _ = self.send([number], [number])
            self.begin(ticket)
            self.end(ticket, token_s)

    def on(self, ticket: Ticket) -> Replica:
        assert ticket.route is not None
        return self.replicas[ticket.route.replica]


def text(num_tokens: int, first: int = 0) -> list[int]:
    return [*range(first, first + num_tokens)]


def test_the_longest_prefix_wins() -> None:
    """A prompt goes where most of its beginning was sent, though another one has some of it."""
    fleet = Fleet()
    fleet.send(text(500), [1])
    long, _ = fleet.send(text(2000), [2])
    fleet.begin(long)
    assert [fleet.where([*text(3000), k]) for k in range(5)] == [2] * 5


def test_a_reply_is_held_too() -> None:
    """The next turn of a conversation goes where the last was, of which the reply is now the prompt's."""
    fleet = Fleet()
    prompt = text(400)
    ticket, _ = fleet.send(prompt, [1])
    fleet.begin(ticket)
    fleet.end(ticket, num_tokens=800)
    again, number = fleet.send([*prompt, *ticket.delivered, *text(100, 5000)])
    assert (number, again.route and again.route.num_left) == (1, 1301 - 1201 // BLOCK * BLOCK)


def test_another_salt_is_another_prompt() -> None:
    """What was sent with one is not held for another, nor for none."""
    fleet = Fleet()
    fleet.send(text(1000), [1], salt="a")
    left = {salt: fleet.send(text(1000), [1], salt=salt)[0].route for salt in ("a", "b", None)}
    assert [route and route.num_left for route in left.values()] == [8, 1000, 1000]


def test_an_adapter_has_other_prefixes() -> None:
    """What the model has computed of a prompt is nothing to an adapter, nor to the next one."""
    fleet, prompt = Fleet(1), [*range(160)]
    adapters = [None, *(Adapter(f"a{k}", Path(), f"a{k}@", k, 8, 1) for k in (1, 2))]
    left = []
    for adapter in (*adapters, *adapters):
        ticket, _ = fleet.send(prompt, adapter=adapter)
        assert ticket.route is not None
        left.append(ticket.route.num_left)
    assert left == [160, 160, 160, 1, 1, 1]


def test_a_prompts_log_probabilities_are_computed() -> None:
    """All of them, though the replica has the prompt: the engine does not look into its cache for those."""
    fleet = Fleet()
    fleet.send(text(1000), [1])
    ticket, _ = fleet.send(text(1000), [1], prompt_logprobs=True)
    assert ticket.route
    assert ticket.route.num_left == 1000


def test_unless_the_queue_costs_more() -> None:
    """What is to be read before it there is more than what its prefix saves."""
    fleet = Fleet(2)
    held, _ = fleet.send(text(1000), [0])
    fleet.begin(held)
    assert fleet.where(text(1200)) == 0
    fleet.send(text(500, 10_000), [0])
    assert fleet.where(text(1200)) == 0
    fleet.send(text(9000, 50_000), [0])
    assert fleet.where(text(1200)) == 1


def test_a_queue_that_has_been_read_costs_nothing() -> None:
    """From its first token on, a prompt is in nobody's way."""
    fleet = Fleet(2)
    held, _ = fleet.send(text(1000), [0])
    fleet.begin(held)
    before, _ = fleet.send(text(9000, 50_000), [0])
    fleet.begin(before)
    assert fleet.where(text(1200)) == 0


def test_running_jobs_count_a_little() -> None:
    """Prompts with nothing in common go where fewer jobs run."""
    fleet = Fleet(3)
    for number, count in ((0, 12), (1, 4), (2, 12)):
        for k in range(count):
            ticket, _ = fleet.send([number, k], [number])
            fleet.begin(ticket)
    assert {fleet.where(text(100, 1000 * k)) for k in range(8)} == {1}


def test_candidates_of_one_prompt_are_together() -> None:
    """The first computes the prompt, and the others wait for that rather than to compute it again."""
    fleet = Fleet(8)
    assert len({fleet.send(text(1000))[1] for _ in range(8)}) == 1


def test_many_candidates_of_a_short_prompt_spread() -> None:
    """As soon as to run beside so many others costs more than to compute the prompt again."""
    fleet = Fleet(4)
    numbers = [fleet.send(text(64))[1] for _ in range(200)]
    assert {numbers.count(number) for number in range(4)} <= set(range(30, 71))


def test_no_more_than_its_places() -> None:
    """A replica on which all places are taken gets a prompt that it holds only if the others are full, too:
    there it would wait until a job ends."""
    fleet = Fleet(2, num_places=4)
    for _ in range(4):
        ticket, _ = fleet.send(text(500), [0])
        fleet.begin(ticket)
    assert fleet.where(text(500)) == 1
    for k in range(5):
        fleet.send([k], [1])
    assert fleet.where(text(500)) == 0


def test_a_slow_replica_is_passed_over() -> None:
    """One whose tokens come at half the others' pace gets nothing that is not much shorter there."""
    fleet = Fleet()
    for number, token_s in ((0, 0.01), (1, 0.01), (2, 0.03)):
        fleet.work(number, token_s)
    assert 2 not in {fleet.where(text(300, 1000 * k)) for k in range(50)}


def test_other_batches_are_no_slowness() -> None:
    """Below twice the others' time a replica is like them: it has more to do at the moment."""
    fleet = Fleet(3)
    for number, token_s in ((0, 0.01), (1, 0.01), (2, 0.018)):
        fleet.work(number, token_s)
    assert 2 in {fleet.where(text(300, 1000 * k)) for k in range(50)}


def test_a_slow_replica_is_tried_again() -> None:
    """When its measure is older than FORGET_S it may have become faster; if not, that is measured again."""
    fleet = Fleet()
    fleet.work(2, 0.03)
    fleet.now += FORGET_S - 10
    for number in (0, 1):
        fleet.work(number, 0.001)
    assert 2 not in {fleet.where(text(300, 1000 * k)) for k in range(50)}
    fleet.now += 10
    assert 2 in {fleet.where(text(300, 1000 * k + 7)) for k in range(50)}


def test_one_that_says_nothing_is_passed_over() -> None:
    """The longer a prompt waits there for its first token, the more it costs; when it has that, it
    is as before."""
    fleet = Fleet(2)
    silent, _ = fleet.send(text(100, 7_000), [0])
    held, _ = fleet.send(text(1000), [0])
    fleet.now += 5
    assert fleet.where(text(1000)) == 1
    for ticket in (silent, held):
        fleet.begin(ticket, 0.0)
    fleet.replicas[1].place(held, silent.route)  # type: ignore[arg-type]  # so that it has more to do
    assert fleet.where(text(1000)) == 0


def test_how_long_a_prompts_token_takes_is_measured() -> None:
    """From the first tokens that come, whatever the machine."""
    fleet = Fleet(1, token_s=0.02)
    fleet.work(0, 0.01, num_jobs=40)
    assert fleet.router.estimate.prefill_s == pytest.approx(0.02, rel=0.01)


def test_a_lost_replica_holds_nothing() -> None:
    """After its death a prompt that it had goes wherever it is done first."""
    fleet = Fleet(2)
    ticket, _ = fleet.send(text(3000), [0])
    fleet.replicas[0].leave(ticket)
    fleet.router.prefixes.forget(0)
    ticket, _ = fleet.send(text(1000), [1])
    fleet.begin(ticket)
    assert fleet.where(text(3000)) == 1


def test_two_processes_choose_alike() -> None:
    """Where nothing speaks for one of them, a prompt's beginning decides: so front ends that do not speak to
    each other send the same beginning to the same replica, and different ones to all."""
    one, other = Fleet(8), Fleet(8)
    prompts = [text(50, 1000 * k) for k in range(100)]
    numbers = [one.where(prompt) for prompt in prompts]
    assert [other.where([*prompt, 5]) for prompt in reversed(prompts)] == numbers[::-1]
    assert {numbers.count(number) for number in range(8)} <= set(range(3, 30))


def test_other_senders_have_as_many_jobs_there() -> None:
    """Each job of this process that runs on a replica stands for one of each other process."""
    fleet = Fleet(2)
    held, _ = fleet.send(text(320), [0])
    fleet.begin(held)
    for k in range(30):
        ticket, _ = fleet.send([k], [0])
        fleet.begin(ticket)
    assert fleet.where(text(320)) == 0
    assert fleet.send(text(320), senders=4)[1] == 1


def test_what_waits_stands_for_nothing_elsewhere() -> None:
    """That a prompt of this process is read on a replica does not say that one of another is: it counts once,
    however many processes send."""
    fleet = Fleet(2)
    held, _ = fleet.send(text(1600), [0])
    fleet.begin(held)
    fleet.send(text(2000, 50_000), [0])
    assert fleet.send(text(1600), senders=4)[1] == 0


def test_a_job_that_is_sent_again_takes_its_tokens_along() -> None:
    """What it has generated elsewhere is part of its prompt."""
    fleet = Fleet(2)
    ticket, _ = fleet.send(text(320), [0])
    fleet.begin(ticket)
    ticket.delivered += text(639, 5000)
    fleet.on(ticket).leave(ticket)
    fleet.router.place(ticket, fleet.replicas[1:])
    assert ticket.route is not None
    assert (ticket.route.num_left, ticket.route.num_before) == (960, 640)


@pytest.mark.parametrize(("num_replicas", "most"), [(8, 8), (64, 8), (1000, 16)])
def test_a_choice_for_a_long_prompt_costs_little_more_than_its_hashes(num_replicas: int, most: int) -> None:
    """32,000 tokens on one core of a Xeon: 0.8 ms with 8 or 64 replicas, 1.6 ms with 1,000; 0.4 to hash."""
    fleet, prompt = Fleet(num_replicas), text(32_001)
    fleet.send(prompt)
    assert cost_s(lambda: fleet.send(prompt)) < most * cost_s(lambda: chain(prompt))
