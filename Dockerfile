# The job and its tools: `docker run IMAGE` is `tua run`, `docker run IMAGE check` is `tua check`. The configuration is
# mounted at /etc/tua/tua.yaml, what must survive is below /var/lib/tua.

# The same in both stages: wheels are made for one Python.
ARG PYTHON=python:3.12.13-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /src
# A constraint of the environment also holds for what builds the wheel.
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY pyproject.toml constraints.txt README.md ./
COPY actions actions
COPY connectors connectors
COPY dataflows dataflows
COPY detection detection
COPY settings settings
COPY tua tua
# There is no compiler here: a dependency without a wheel for this machine is an error, and not a surprise.
RUN pip wheel --only-binary :all: --wheel-dir /wheels .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="tua" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.description="Watches user activity on Kafka and alerts the moment something happens too often"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps --disable-pip-version-check --root-user-action ignore /wheels/*.whl
# The number is that of deploy/kubernetes. The job refuses a state directory that others may write to.
RUN groupadd --gid 10001 tua && \
    useradd --uid 10001 --gid tua --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tua && \
    install --directory --owner tua --group tua --mode 0700 /var/lib/tua
ENV TUA_CONFIG=/etc/tua/tua.yaml \
    TUA_STATE_DIRECTORY=/var/lib/tua/state
USER 10001:10001
# Not in the state: `python -m` imports from where it is started first.
WORKDIR /
ENTRYPOINT ["tua"]
CMD ["run"]
