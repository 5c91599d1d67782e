#!/bin/sh
# Installs Verbatim from the folder that this file lies in, without any network: sh install.sh --help
#
# Needs a POSIX shell and the Python that the bundle was made for, with its standard library alone. All the work is
# in install.pyz, which is read once, compared with the digest below, and run out of memory; it compares everything else.
# The body is a function that is called in the last line: of a file that was cut short, nothing runs.

PYZ_SHA256=@PYZ_SHA256@
PYTHON_VERSION=@PYTHON_VERSION@

# shellcheck disable=SC2016  # Python, not shell
RUN='
import hashlib, os, sys

path, wanted, *options = sys.argv[1:]
try:
    with open(path, "rb") as file:
        data = file.read(1 << 24)
except OSError:
    data = b""
if hashlib.sha256(data).hexdigest() != wanted:
    what = "altered" if data else "missing"
    sys.exit(f"install.sh: refused, nothing was installed. Copy this again: install.pyz: {what}")
copy = os.memfd_create("install.pyz", 0)
with open(copy, "wb", closefd=False) as file:
    file.write(data)
os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", f"/proc/self/fd/{copy}", *options])
'

die() {
    echo "install.sh: $1" >&2
    exit "$2"
}

main() {
    set -u
    here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || die "cannot find the folder of $0" 2

    python='' before=''
    for word in "$@"; do
        case $before in --python) python=$word ;; esac
        case $word in --python=*) python=${word#--python=} ;; esac
        before=$word
    done
    if [ -n "$python" ]; then
        command -v "$python" >/dev/null 2>&1 || die "there is no interpreter $python." 2
    else
        for name in "python$PYTHON_VERSION" python3 python; do
            if version_of "$name"; then python=$name && break; fi
        done
        [ -n "$python" ] || die "Python $PYTHON_VERSION is needed, and neither python$PYTHON_VERSION nor python3 is one. \
Install it from this system's packages, or name it: sh install.sh --python /path/to/python$PYTHON_VERSION" 2
    fi
    version_of "$python" || die "$python is not Python $PYTHON_VERSION, which this bundle is for." 2

    exec "$python" -I -S -B -c "$RUN" "$here/install.pyz" "$PYZ_SHA256" --bundle "$here" "$@"
}

version_of() {
    "$1" -I -S -c 'import sys
sys.exit("{}.{}".format(*sys.version_info) != sys.argv[1])' "$PYTHON_VERSION" >/dev/null 2>&1
}

main "$@"
