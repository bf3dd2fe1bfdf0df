#!/usr/bin/env bash
# Generates raccoon/proto from proto/, or with --check compares the two.
#
# The generator is pinned, as other versions give other code, and has an environment of its own:
# it needs an older protobuf than the server may be installed with.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TOOLS=grpcio-tools==1.76.0
VENV=.venv-proto
SOURCES=(raystack/raccoon/v1beta1/raccoon.proto raccoon/v1/stream.proto)
STAMP=$VENV/.installed-$TOOLS

if [ ! -e "$STAMP" ]; then
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV"
    # grpcio-tools imports pkg_resources, which setuptools 81 and later no longer have.
    "$VENV/bin/pip" install --quiet "$TOOLS" "setuptools<81"
    touch "$STAMP"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$VENV/bin/python" -W ignore -m grpc_tools.protoc -Iproto \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" "${SOURCES[@]/#/proto/}"

stale=0
for source in "${SOURCES[@]}"; do
    for generated in "$out/${source%.proto}"_pb2{.py,.pyi,_grpc.py}; do
        # All modules are in one package here, whatever the packages of their sources.
        sed -i -E 's/^from (raystack\.raccoon\.v1beta1|raccoon\.v1) import/from raccoon.proto import/' \
            "$generated"
        file=raccoon/proto/$(basename "$generated")
        if [ "${1:-}" = --check ]; then
            diff -u "$file" "$generated" || stale=1
        else
            cp "$generated" "$file"
        fi
    done
done
if [ "$stale" != 0 ]; then
    echo "raccoon/proto is not what proto/ gives: run make proto" >&2
fi
exit "$stale"
