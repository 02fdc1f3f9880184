FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /authd ./cmd/authd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /authd /authd
HEALTHCHECK --interval=5s --timeout=4s CMD ["/authd", "healthcheck"]
USER 65532:65532
ENTRYPOINT ["/authd"]
