"""The bundled plugins: one file per format family, per engine and per store. They use only public entry points."""
