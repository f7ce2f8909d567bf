//! Tests of whole decisions; the tables of single rooms stand beside them.

mod convergence;
mod operator;
