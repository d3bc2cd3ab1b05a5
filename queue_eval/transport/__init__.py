"""The way to a server: access files, URLs, clients, and a link that repeats calls until there is a reply.

The only wing that imports redis. It knows no campaign. Begin with `link`; what an error means is in
`error_kinds`.
"""
