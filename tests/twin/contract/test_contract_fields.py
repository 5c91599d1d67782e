"""The tests of a real engine's server, on the twin."""

from tests.engine.test_contract_fields import *  # noqa: F403

del test_a_cache_is_for_its_salt  # noqa: F821  # the twin has none
