module krake-hooks.dev/e2e/cluster/images/pause

go 1.25.0
