#!/bin/sh
# dev-env.sh INSTALLATION WHEELS DEV
#
# Makes DEV, an environment with the packages of tests/gpu/requirements.txt, from the folder WHEELS and no network.
# It sees what is installed under INSTALLATION, which stays as it was sealed.
set -eu
[ $# -eq 3 ] || { sed -n 2,5p "$0"; exit 2; }
installed=$1/current wheels=$2 dev=$3

"$(readlink -f "$installed/venv/bin/python")" -m venv --clear --without-pip "$dev"
site=$("$dev/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
others=$(find "$wheels" -name '*.whl' ! -name 'pip-*')
# shellcheck disable=SC2086  # a word for each wheel
"$dev/bin/python" "$(echo "$wheels"/pip-*.whl)/pip" install -q --no-index --no-deps --no-compile $others

for seen in "$installed"/venv/lib/python3*/site-packages; do
  readlink -f "$seen" > "$site/installation.pth"
  [ ! -f "$seen/verbatim-have.pth" ] || cat "$seen/verbatim-have.pth" >> "$site/installation.pth"
done
# The installation's variables, which its own command sets.
[ ! -f "$installed/bin/verbatim" ] || grep -v '^exec ' "$installed/bin/verbatim" > "$dev/bin/env.sh"
printf '#!%s\nfrom server.cli import main\nmain()\n' "$(readlink -f "$dev")/bin/python" > "$dev/bin/verbatim"
chmod +x "$dev/bin/verbatim"
