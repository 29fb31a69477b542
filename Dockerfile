# One image per service: `docker build --build-arg SERVICE=catalog .`; the process is the command.
# Nothing here asks for BuildKit. The final image has no compiler, no uv and no root.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS names
COPY . /source
RUN find /source -type f ! -name pyproject.toml ! -name uv.lock -delete \
    && find /source -depth -type d -empty -delete

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.8
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/app
RUN python3 -m venv /uv && /uv/bin/pip install --no-cache-dir --quiet "uv==${UV_VERSION}"
WORKDIR /source
# The lock and the members' names first: what others wrote is installed again only when they change.
COPY --from=names /source ./
ARG SERVICE
RUN /uv/bin/uv sync --quiet --frozen --no-dev --no-install-workspace --package "shop-${SERVICE}"
COPY . ./
RUN /uv/bin/uv sync --quiet --frozen --no-dev --no-editable --package "shop-${SERVICE}" \
    && printf '#!/bin/sh\nexec /app/bin/python -m %s "$@"\n' "${SERVICE}" > /app/bin/service \
    && chmod 755 /app/bin/service

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 1000 shop \
    && useradd --uid 1000 --gid shop --home-dir /data --no-create-home --shell /usr/sbin/nologin shop \
    && install --directory --owner shop --group shop --mode 0750 /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH HOME=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["/app/bin/service"]
