"""/diagnostics of the SDK: the application's log, as it happens.

S, lmstudio-js packages/lms-external-backend-interfaces/src/diagnosticsBackendInterface.ts: the creation parameter is
void, so there is no filter; clients choose for themselves. Switches: `diagnostics` (whether it is served at all),
`prediction_log` and `swap_outputs` (what predictions tell).
"""

from proxy.demo.sdk_endpoints import Channel, ChannelEndpoint, Context, Namespace


async def stream_logs(context: Context, _: None, channel: Channel) -> None:
    """Every event of every surface from now on, until `stop`."""

    async def forward() -> None:
        while True:
            await channel.send({"type": "log", "log": await events.get()})

    with context.look.log.listening() as events:
        await channel.until_stopped(forward())


NAMESPACE = Namespace("diagnostics", channels={"streamLogs": ChannelEndpoint(None, stream_logs, stop_message="stop")})
