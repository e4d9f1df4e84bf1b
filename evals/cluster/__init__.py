"""The judge over a Ray cluster: each node runs programs as a machine of its own would.

`driver` is the page; what it says to a node's `post`, and hears from it, are `messages`; its
`ledger` sees to it that nothing is lost or found out twice. Only `over_ray` knows Ray.
"""
