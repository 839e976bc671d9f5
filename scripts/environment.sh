# shellcheck shell=sh
# The environment of everything that starts from this clone; sourced by ./demo and ./test, which set $root.

# A foreign virtual environment or search path must not leak into ours.
unset PYTHONPATH PYTHONHOME CONDA_PREFIX
# shellcheck disable=SC2154  # the caller sets it
export VIRTUAL_ENV="$root/.venv"
export PATH="$root/.venv/bin:$PATH"

# One worker process per bundle: numeric libraries that each take every core only slow each other down.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Nothing here calls home.
export DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1 GX_ANALYTICS_ENABLED=false DAGSTER_DISABLE_TELEMETRY=1
# Models are stored with skops; nothing may be unpickled.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
# Byte code halves the start of every process; containers tend to switch it off.
unset PYTHONDONTWRITEBYTECODE
# A bare container has no locale; text files are UTF-8 all the same.
export PYTHONUTF8=1
