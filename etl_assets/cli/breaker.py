"""`etl breaker`: the circuit breaker, and how to close it."""

import click

from etl_assets.cli import environment, output


@click.group(invoke_without_command=True)
@click.pass_context
def breaker(ctx: click.Context) -> None:
    """Tell whether the circuit breaker holds automatic runs back.

    ETL_BREAKER_FAILURES says after how many failed runs in a row it does. Ends with 1 if it does.
    """
    if ctx.invoked_subcommand:
        return
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.automation.breaker import Breaker, failed_in_a_row
    from etl_assets.automation.history import History
    from etl_assets.definitions import definitions

    with environment.open_instance() as instance:
        history = History.of_definitions(definitions(settings), instance, environment.naming(settings))
        held_back = Breaker(settings.breaker_failures).held_back(history)
        failed = len(failed_in_a_row(history))
    if held_back:
        output.say(held_back)
        ctx.exit(1)
    limit = settings.breaker_failures
    output.say(f"closed: {failed} failed in a row, of {limit}" if limit else f"off; {failed} failed in a row")


@breaker.command()
def reset() -> None:
    """Let what failed until now be forgotten: scheduled and sensor runs start again."""
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.automation.breaker import reset as forget

    with environment.open_instance() as instance:
        forget(instance, environment.naming(settings))
    output.say("closed: what failed until now is forgotten")
