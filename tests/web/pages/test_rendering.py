"""How templates are found and compiled."""

import jinja2.meta

from collector.web.pages import rendering


def test_a_template_says_by_name_which_others_it_needs() -> None:
    """They are compiled with it, in a thread; the event loop would have to wait for any other."""
    environment = rendering._templates
    known = set(environment.list_templates())
    for name in known:
        source, _, _ = rendering._loader.get_source(environment, name)
        assert set(jinja2.meta.find_referenced_templates(environment.parse(source))) <= known


def test_compiling_a_template_leaves_no_other_for_the_event_loop() -> None:
    environment = rendering._templates
    for name in environment.list_templates():
        rendering._compile(name)
        source, _, _ = rendering._loader.get_source(environment, name)
        assert {name, *jinja2.meta.find_referenced_templates(environment.parse(source))} <= rendering._compiled
