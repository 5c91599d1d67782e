"""The tests of a real engine's server, on the twin."""

from tests.engine.test_contract_fields import *  # noqa: F403
