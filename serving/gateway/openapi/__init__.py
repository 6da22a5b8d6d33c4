"""The OpenAPI document of a gateway, and the page for people that is made from it."""
