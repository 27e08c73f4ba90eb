//! `cryopod __generate DIR`: man pages and shell completions, for whoever packages cryopod.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Args;
use crate::failure::Failure;

pub(crate) fn run(dir: &Path) -> Result<ExitCode, Failure> {
    let mut command = Args::command();
    command.build();
    let man = make_dir(&dir.join("man"))?;
    write_pages(&command, "cryopod", &man)?;
    let completions = make_dir(&dir.join("completions"))?;
    for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::Zsh] {
        let written =
            clap_complete::generate_to(shell, &mut Args::command(), "cryopod", &completions);
        written.map_err(|source| Failure::Path {
            operation: "write to",
            path: completions.clone(),
            source,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn make_dir(dir: &Path) -> Result<std::path::PathBuf, Failure> {
    let made = fs::create_dir_all(dir);
    made.map_err(|source| Failure::Path {
        operation: "create",
        path: dir.to_owned(),
        source,
    })?;
    Ok(dir.to_owned())
}

/// Writes `NAME.1` for a command and `NAME-SUB.1` for each of its own.
fn write_pages(command: &Command, name: &str, dir: &Path) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let failed = |source| Failure::Path {
        operation: "write",
        path: path.clone(),
        source,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name)
        .render(&mut page)
        .map_err(failed)?;
    fs::write(&path, page).map_err(failed)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_pages(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_file() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path()).unwrap();
        let page = fs::read_to_string(dir.path().join("man/cryopod-checkpoint.1")).unwrap();
        assert!(page.contains("cryopod checkpoint"), "{page}");
        assert!(!dir.path().join("man/cryopod-__generate.1").exists());
        for file in ["cryopod.bash", "cryopod.fish", "_cryopod", "cryopod.elv"] {
            assert!(dir.path().join("completions").join(file).exists(), "{file}");
        }
    }
}
