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
SOURCE=raystack/raccoon/v1beta1
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
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" "proto/$SOURCE/raccoon.proto"
sed -i 's/^from raystack\.raccoon\.v1beta1 import/from raccoon.proto import/' \
    "$out/$SOURCE/raccoon_pb2_grpc.py"

stale=0
for file in raccoon_pb2.py raccoon_pb2.pyi raccoon_pb2_grpc.py; do
    if [ "${1:-}" = --check ]; then
        diff -u "raccoon/proto/$file" "$out/$SOURCE/$file" || stale=1
    else
        cp "$out/$SOURCE/$file" "raccoon/proto/$file"
    fi
done
if [ "$stale" != 0 ]; then
    echo "raccoon/proto is not what proto/ gives: run make proto" >&2
fi
exit "$stale"
