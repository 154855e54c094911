"""The import graph has no ring of more than two modules; import-linter holds the order of the rooms (pyproject.toml)."""

from __future__ import annotations

import grimp
import networkx as nx

PACKAGES = ("tokenlake", "tokenlake_models", "tokenlake_kernels", "tokenlake_sql")


def test_no_ring_of_imports_holds_more_than_two_modules() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    arrows = nx.DiGraph(
        (module, imported) for module in graph.modules for imported in graph.find_modules_directly_imported_by(module)
    )
    rings = [sorted(ring) for ring in nx.strongly_connected_components(arrows) if len(ring) > 2]
    assert arrows.number_of_edges() > 500  # the graph was found at all
    assert rings == []
