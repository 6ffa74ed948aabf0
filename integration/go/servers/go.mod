module fairway.dev/servers

go 1.26.0

tool fairway.dev/servers/graceful
