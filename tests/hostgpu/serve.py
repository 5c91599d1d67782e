"""`verbatim` in the environment of the pretended GPU: python tests/hostgpu/serve.py SITE serve …

SITE: the site-packages of an environment of ours, for what that one lacks; its torch and vLLM stay hidden.
"""

import sys

sys.path.append(sys.argv.pop(1))

from server.cli import main

if __name__ == "__main__":
    main()
