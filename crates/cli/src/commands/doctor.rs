//! `cryopod doctor`.

use std::process::ExitCode;

use cryopod::doctor::{self, Check, Examination};

use super::Context;
use crate::failure::Failure;

pub(crate) fn run(context: &Context) -> Result<ExitCode, Failure> {
    let examination = doctor::examine(Some(&context.store_dir));
    context.output.print(&examination, || text(&examination));
    if examination.ready {
        return Ok(ExitCode::SUCCESS);
    }
    if context.output.json {
        // The one document is printed; it says what is missing.
        return Ok(Failure::Lacking(Vec::new()).exit_code());
    }
    let missing = |check: &&Check| check.needed && !check.have;
    Err(Failure::Lacking(
        examination
            .checks
            .iter()
            .filter(missing)
            .map(|check| check.name)
            .collect(),
    ))
}

fn text(examination: &Examination) -> String {
    let width = examination
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for check in &examination.checks {
        let state = match (check.have, check.needed) {
            (true, _) => "have",
            (false, true) => "LACK",
            (false, false) => "lack",
        };
        lines.push(format!("{state}  {:<width$}  {}", check.name, check.detail));
        if !check.have {
            lines.push(format!("      {:<width$}  cost: {}", "", check.cost));
        }
    }
    lines.push(if examination.ready {
        "Everything is there that checkpoints and restores cannot do without.".to_owned()
    } else {
        "What is marked LACK is needed for anything to work.".to_owned()
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_says_what_it_costs() {
        let check = |name, have, needed| Check {
            name,
            have,
            needed,
            detail: "found so".into(),
            cost: "nothing works",
        };
        let examination = Examination {
            ready: false,
            checks: vec![
                check("kernel", true, true),
                check("privilege", false, true),
                check("comfort", false, false),
            ],
        };
        insta::assert_snapshot!(text(&examination), @r"
        have  kernel     found so
        LACK  privilege  found so
                         cost: nothing works
        lack  comfort    found so
                         cost: nothing works
        What is marked LACK is needed for anything to work.
        ");
    }
}
