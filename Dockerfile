FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
ENV SQLX_OFFLINE=true
RUN cargo build --locked --release --package tasker --bin tasker

FROM debian:bookworm-slim
RUN useradd --system --create-home tasker
COPY --from=build /src/target/release/tasker /usr/local/bin/tasker
USER tasker
ENTRYPOINT ["tasker"]
