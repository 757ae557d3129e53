"""Ingestion: a stream of documents -> encoder -> store, in bounded memory, resumable.

`run` holds `m3_core.ingest`, `pipeline` one run of it, `writer` the thread that writes, `journal` what was acknowledged;
`backfill` fills collections that hold text already, which `scan` reads; `copy` brings what another store holds, with
its vectors; `sources` and `readers` make documents of files, `templates` and `chunking` texts of documents, `rejects`
keeps what could not be read.
"""
