"""The tests of a real engine's server, on the twin."""

from tests.engine.test_contract_errors import *  # noqa: F403

del test_loading_model_is_a_503_with_retry_after  # noqa: F821  # there is nothing to load
