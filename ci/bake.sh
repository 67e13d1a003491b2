#!/bin/sh
# For a pipeline: bakes what a commit changed and leaves one JSON object a line for the next step to read.
set -eu
exec olbake bake --all --json "$@"
