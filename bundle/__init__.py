"""One sealed bundle: made where there is a network, checked and installed where there is none."""
