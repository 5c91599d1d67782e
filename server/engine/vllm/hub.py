"""Stands between an engine and front ends on other machines: one port, and a slot for each front end.

To the engine, each slot is a client with sockets of its own, like a worker's (server/process/workers.py). The
engine knows all slots from its start, while front ends come and go. To front ends there is one TCP port:
everything on it is encrypted, and only a front end with a key made by this hub can connect (ZeroMQ's CURVE
and its authentication protocol). Messages that pass through are neither read nor copied.

A stranger is cut off when the handshake fails, or takes more than five seconds. Until then each of his
connections can make the hub hold MOST_BYTES, so the port belongs in the cluster's own network. Who has keys
is trusted like a worker on the same machine: the engine obeys.

A front end keeps its slot until it is released, is gone, or has left too much unread. Then the engine's work
for it is aborted, and if the front end is still there, it is told that its connection is dead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from server.engine.vllm.link import ENGINE, inputs_of, outputs_of
from server.engine.vllm.wire import ABORT, DEAD, decode, encode

log = logging.getLogger(__name__)

# A front end that vanished is noticed after this many milliseconds.
HEARTBEAT_MS, SILENCE_MS = 2_000, 10_000
# Messages, one per step, that may wait for a front end that does not take them; then it is cut off. At a
# hundred steps a second this is half a minute.
MOST_WAITING = 4096  # for 256 streams 32 MB; with 20 log-probabilities ten times as much
MOST_BYTES = 1 << 24  # of a message to the engine; a prompt of a million tokens has a third of this
DOMAIN = "hub"  # with a domain, libzmq admits nobody if its authenticator does not answer
GREETING_MS = 5_000  # for a whole handshake
POLL_MS = 200
# Why a front end loses its slot.
FULL, GONE = "left too many messages unread and was disconnected", "is gone"


@dataclass(frozen=True, slots=True)
class Admission:
    """What a front end needs to connect. Keys in Z85, ZeroMQ's form: the hub's, and the key pair made for
    this front end."""

    slot: int
    address: str
    server_key: str
    public_key: str
    secret_key: str


@dataclass(slots=True)
class Slot:
    """owner: public key of the front end that has the slot; empty: free. peer: the name of its connection;
    empty: it has not sent anything yet."""

    inputs: zmq.Socket[bytes]
    outputs: zmq.Socket[bytes]
    owner: str = ""
    peer: bytes = b""


class Hub:
    """host: address to listen on. folder: for the slots' sockets; folders: of each slot. num_slots: the
    largest number of front ends."""

    def __init__(self, host: str, folder: Path, num_slots: int) -> None:
        self.folders = [folder / str(number) for number in range(num_slots)]
        self._context = zmq.Context()
        self._keys = zmq.curve_keypair()
        self._guard = ThreadAuthenticator(self._context)
        self._guard.start()
        self._guard.configure_curve_callback(DOMAIN, self)
        self._front = self._context.socket(zmq.ROUTER)
        self._front.curve_server = self._front.zap_enforce_domain = True
        self._front.zap_domain = DOMAIN.encode()
        self._front.curve_publickey, self._front.curve_secretkey = self._keys
        self._front.router_mandatory = True  # so that sending to a peer that is gone, or does not read, fails
        self._front.handshake_ivl, self._front.maxmsgsize = GREETING_MS, MOST_BYTES
        self._front.heartbeat_ivl, self._front.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        self._front.sndhwm, self._front.rcvhwm, self._front.linger = MOST_WAITING, 0, 0
        port = self._front.bind_to_random_port(f"tcp://{host}")
        self._address = f"tcp://{host}:{port}"
        self._slots = [self._slot(one) for one in self.folders]
        self._dismissed: set[bytes] = set()  # peers that have not been told yet that they lost their slot
        self._lock = threading.Lock()  # for the slots' owners and the dismissed peers
        self._ends = False
        self._thread = threading.Thread(target=self._pass_on, name="hub", daemon=True)
        self._thread.start()

    def admit(self) -> Admission:
        """A slot for another front end. Raises LookupError if there is none."""
        public, secret = (key.decode() for key in zmq.curve_keypair())
        with self._lock:
            number, slot = next(
                ((number, slot) for number, slot in enumerate(self._slots) if not slot.owner), (-1, None)
            )
            if slot is None:
                raise LookupError(f"all {len(self._slots)} slots are taken")
            slot.owner, slot.peer = public, b""
        return Admission(number, self._address, self._keys[0].decode(), public, secret)

    def keeps(self, admission: Admission) -> bool:
        """Whether the front end still has its slot."""
        return self._slots[admission.slot].owner == admission.public_key

    def release(self, admission: Admission) -> None:
        """The front end is gone. The engine's work for it is aborted."""
        slot = self._slots[admission.slot]
        with self._lock:
            if slot.owner == admission.public_key:  # otherwise another front end has the slot by now
                self._vacate(slot)

    def close(self) -> None:
        """Safe to call twice."""
        if not self._ends:
            self._ends = True
            self._thread.join()
            self._front.close(linger=0)
            self._guard.stop()
            self._context.destroy(linger=0)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the key belongs to a front end: for the authenticator."""
        return any(slot.owner == key.decode() for slot in self._slots)

    def _slot(self, folder: Path) -> Slot:
        folder.mkdir()
        inputs, outputs = self._context.socket(zmq.ROUTER), self._context.socket(zmq.PULL)
        inputs.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a new engine has the same name as the one before
        for socket, address in ((inputs, inputs_of(folder)), (outputs, outputs_of(folder))):
            socket.sndhwm = socket.rcvhwm = socket.linger = 0
            socket.bind(address)
        return Slot(inputs, outputs)

    def _pass_on(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        slots = {slot.outputs: slot for slot in self._slots}
        for outputs in slots:
            poller.register(outputs, zmq.POLLIN)
        while not self._ends:
            for socket, _ in poller.poll(POLL_MS):
                try:
                    if socket is self._front:
                        self._from_front_end()
                    else:
                        self._from_engine(slots[socket])
                except Exception:  # only this message is lost; the others go on
                    log.exception("a message could not be passed on")
            if self._dismissed:
                self._tell_dismissed()

    def _from_front_end(self) -> None:
        peer, *frames = self._front.recv_multipart(zmq.NOBLOCK, copy=False)
        owner = peer.get("User-Id")  # its key, as the authenticator reports it
        with self._lock:
            slot = next((one for one in self._slots if one.owner == owner), None)
            if slot is None:
                self._dismissed.add(peer.bytes)
                return
            slot.peer = peer.bytes
        if len(frames) == 2:
            slot.inputs.send_multipart((ENGINE, *frames), copy=False)

    def _from_engine(self, slot: Slot) -> None:
        frames = slot.outputs.recv_multipart(zmq.NOBLOCK, copy=False)
        if not (peer := slot.peer):
            self._give_up(slot, [frame.bytes for frame in frames])
        elif why := self._not_sent(peer, frames):
            log.warning("a front end %s", why)
            with self._lock:
                if slot.peer == peer:  # otherwise it has another connection by now
                    self._vacate(slot)

    def _not_sent(self, peer: bytes, frames: Sequence[bytes | zmq.Frame]) -> str:
        """Send it there. Returns why it could not be sent; empty: it was."""
        try:
            self._front.send_multipart((peer, *frames), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return GONE
        return ""

    def _vacate(self, slot: Slot) -> None:
        if slot.peer:
            self._dismissed.add(slot.peer)
        slot.owner, slot.peer = "", b""

    def _tell_dismissed(self) -> None:
        """Tell the dismissed peers that can be told now."""
        with self._lock:
            self._dismissed = {peer for peer in self._dismissed if self._not_sent(peer, [DEAD]) == FULL}

    @staticmethod
    def _give_up(slot: Slot, frames: list[bytes]) -> None:
        """The engine works for nobody on this slot: abort its requests."""
        if frames[0] == DEAD:
            return
        strangers = [one.request_id for one in decode(frames).outputs if one.finish_reason is None]
        if strangers:
            slot.inputs.send_multipart((ENGINE, ABORT, encode(strangers)))
