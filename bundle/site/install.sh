#!/bin/sh
# Installs Verbatim from the folder that this file lies in, without any network: sh install.sh --help
#
# Needs a POSIX shell and the Python that the bundle was made for, with its standard library alone. All the work is
# in install.pyz, which is compared with the digest below before it runs; it compares everything else.
# The body is a function that is called in the last line: of a file that was cut short, nothing runs.

PYZ_SHA256=@PYZ_SHA256@
PYTHON_VERSION=@PYTHON_VERSION@

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

    [ -f "$here/install.pyz" ] || die "refused, nothing was installed. Copy this again: install.pyz: missing" 1
    "$python" -I -S -c 'import hashlib, sys
sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' "$here/install.pyz" "$PYZ_SHA256" ||
        die "refused, nothing was installed. Copy this again: install.pyz: altered" 1
    exec "$python" -I -S -B "$here/install.pyz" --bundle "$here" "$@"
}

version_of() {
    "$1" -I -S -c 'import sys
sys.exit("{}.{}".format(*sys.version_info) != sys.argv[1])' "$PYTHON_VERSION" >/dev/null 2>&1
}

main "$@"
