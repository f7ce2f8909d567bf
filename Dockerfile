# The operator's image: one static binary, nothing else. `make image` builds both; the context is
# target/image/context, which holds the binary alone.
FROM scratch
LABEL org.opencontainers.image.title="krake-hooks" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY krake-hooks /krake-hooks
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["/krake-hooks"]
CMD ["run", "--config", "/etc/krake-hooks/config.yaml"]
