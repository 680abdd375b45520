#!/bin/sh
# Installs singlestrip in a Debian system without an engine's help: every recipe in this folder calls it, as root.
#   install.sh build SOURCE   makes /opt/singlestrip from a source tree; brings pip and a compiler for that
#   install.sh run            brings what a finished container needs, and takes away what only building did
# Two stages of a build each run one of them; a single system runs both, in this order.
# Variables: PARTS=strip leaves out torch and scikit-learn, which only training needs (default: everything);
# TORCH_INDEX, the package index that torch comes from (default: builds for processors); pip's own, such as
# PIP_INDEX_URL or PIP_FIND_LINKS, work as ever.
set -eu

BUILD_PACKAGES="python3-venv python3-dev g++ make"
PREFIX=/opt/singlestrip

packages() {
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
}

clean() {
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /root/.cache
}

build() {
    # shellcheck disable=SC2086
    packages python3 $BUILD_PACKAGES
    python3 -m venv "$PREFIX"
    # A copy: building writes into the source tree, which may be read-only.
    copy=$(mktemp -d)
    for part in setup.py pyproject.toml README.md LICENSE constraints.txt requirements-strip.txt singlestrip models; do
        cp -R "$1/$part" "$copy/"
    done
    install="$PREFIX/bin/pip install --no-cache-dir --disable-pip-version-check -c $copy/constraints.txt"
    if [ "${PARTS:-everything}" = strip ]; then
        $install -r "$copy/requirements-strip.txt"
        $install --no-deps "$copy"
    else
        $install --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" torch
        $install "${copy}[bids]"
    fi
    rm -rf "$copy"
    "$PREFIX/bin/pip" uninstall -q -y pip
    clean
}

run() {
    packages python3 libstdc++6
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y --auto-remove $BUILD_PACKAGES
    id singlestrip >/dev/null 2>&1 || useradd --create-home singlestrip
    ln -sf "$PREFIX/bin/singlestrip" "$PREFIX/bin/mri_singlestrip" /usr/local/bin/
    clean
}

case "${1:-} $#" in
    "build 2") build "$2" ;;
    "run 1") run ;;
    *)
        echo "install.sh: use build SOURCE, or run" >&2
        exit 2
        ;;
esac
