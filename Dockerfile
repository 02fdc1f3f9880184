# syntax=docker/dockerfile:1

# The service as one static file, without a shell or anything else beside it:
#
#   docker build --build-arg VERSION=1.2.3 --build-arg COMMIT=$(git rev-parse --short=12 HEAD) -t authd:1.2.3 .
#
# Versions are pinned by tag; go.sum pins all that goes into the binary.
FROM --platform=$BUILDPLATFORM golang:1.26.8-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=0.1.0
ARG COMMIT=
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags="-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o /authd ./cmd/authd
# What the service keeps without a database and a bus elsewhere. A volume that is mounted there
# takes over its owner.
RUN install -d -o 65532 -g 65532 -m 0700 /data

FROM scratch
ARG VERSION=0.1.0
ARG COMMIT=
LABEL org.opencontainers.image.title="Zyotra Auth" \
      org.opencontainers.image.description="Accounts, sessions and tokens over NATS, with an HTTP edge" \
      org.opencontainers.image.source="https://github.com/zyotra/auth" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /data /data
COPY --from=build /authd /authd
# In a container only what is published is reached from outside.
ENV HOST=0.0.0.0 PORT=3000 DATA_DIR=/data
EXPOSE 3000 9464
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=6 CMD ["/authd", "healthcheck"]
ENTRYPOINT ["/authd"]
