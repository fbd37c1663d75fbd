"""Endings and names of files to languages, for the files that people write."""

from __future__ import annotations

_ENDINGS = """
Ada: adb ads
Agda: agda
Assembly: asm s
AsciiDoc: adoc asciidoc
Batchfile: bat cmd
C: c h
C#: cs csx
C++: cpp cc cxx hpp hh hxx ipp inl
CMake: cmake
CSS: css
Clojure: clj cljs cljc edn
Common Lisp: lisp lsp cl
Cuda: cu cuh
D: d
Dart: dart
Dockerfile: dockerfile
Elixir: ex exs
Elm: elm
Emacs Lisp: el
Erlang: erl hrl
F#: fs fsi fsx
Fortran: f f77 f90 f95 f03 for
GLSL: glsl vert frag
Go: go
GraphQL: graphql gql
Groovy: groovy gradle
HCL: tf hcl
HTML: html htm xhtml
Haskell: hs lhs
Idris: idr
Java: java
JavaScript: js jsx mjs cjs
Jupyter Notebook: ipynb
Julia: jl
Kotlin: kt kts
Lean: lean
Lua: lua
Makefile: mk
Markdown: md markdown mdx
Nim: nim nims
Nix: nix
OCaml: ml mli
Objective-C: m mm
Org: org
Pascal: pas pp dpr
Perl: pl pm t
PHP: php php5 phtml
PowerShell: ps1 psm1
Prolog: pro prolog
Protocol Buffer: proto
Python: py pyi pyx pxd
R: r
Racket: rkt
reStructuredText: rst
Ruby: rb rake gemspec
Rust: rs
SCSS: scss sass less
SQL: sql
Scala: scala sc sbt
Scheme: scm ss sld
Shell: sh bash zsh fish
Smalltalk: st
Solidity: sol
Standard ML: sml
Stata: do ado
Svelte: svelte
Swift: swift
SystemVerilog: sv svh
Tcl: tcl
TeX: tex sty cls
Text: txt
TOML: toml
TypeScript: ts tsx mts cts
VHDL: vhd vhdl
Verilog: v
Vim Script: vim
Visual Basic: vb bas
Vue: vue
WebAssembly: wat
XML: xml xsd xsl xslt
YAML: yml yaml
Zig: zig
"""
_LANGUAGES = {
    ending: language.strip()
    for language, _, endings in (line.partition(":") for line in _ENDINGS.strip().splitlines())
    for ending in endings.split()
}
_NAMES = {
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "dockerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "rakefile": "Ruby",
    "gemfile": "Ruby",
    "vagrantfile": "Ruby",
    "jenkinsfile": "Groovy",
    "build": "Starlark",
    "workspace": "Starlark",
    "build.bazel": "Starlark",
    "readme": "Text",
    "authors": "Text",
    "changelog": "Text",
    "news": "Text",
}


def language_of(path: str) -> str | None:
    """The language of a file by its name; None if it is not one that holds code or prose."""
    name = path.rpartition("/")[2].lower()
    if name in _NAMES:
        return _NAMES[name]
    stem, _, ending = name.rpartition(".")
    return _LANGUAGES.get(ending) if stem or ending != name else None
