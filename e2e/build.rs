//! Compiles the target programs in `targets/`, which are C because they are about what the kernel keeps for a process
//! and not about any language's runtime, into one static program that the tests carry with them.
//!
//! Without a C compiler the crate still builds; the tests that need the programs then say so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=targets");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let program = out.join("targets");
    let mut sources = sources(Path::new("targets"))?;
    sources.sort();
    if let Err(reason) = compile(&sources, &program) {
        println!(
            "cargo::warning=the end-to-end tests' target programs were not compiled: {reason}"
        );
        fs::write(&program, "")?;
    }
    Ok(())
}

fn sources(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    Ok(sources)
}

fn compile(sources: &[PathBuf], program: &Path) -> Result<(), String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args([
            "-std=gnu11",
            "-static",
            "-O1",
            "-g",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-o",
        ])
        .arg(program)
        .args(sources)
        .output()
        .map_err(|error| format!("cannot run {compiler}: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{compiler}: {}: {}",
            output.status,
            messages.replace('\n', " | ")
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    Ok(())
}
