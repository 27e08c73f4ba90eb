//! `criu check`: whether this machine can do what is asked.

use cryopod::doctor;

use super::Error;
use super::parse::Settings;
use crate::output;

pub(super) fn run(settings: &Settings) -> Result<(), Error> {
    if settings.features.is_empty() {
        let missing: Vec<String> = doctor::examine(None)
            .checks
            .into_iter()
            .filter(|check| check.needed && !check.have)
            .map(|check| format!("{}: {}", check.name, check.cost))
            .collect();
        if missing.is_empty() {
            output::line("Looks good.");
            return Ok(());
        }
        output::line("Does not look good.");
        return Err(Error::Lacking(missing.join("\n")));
    }
    for feature in &settings.features {
        if feature == "list" {
            output::line(
                &doctor::FEATURES
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
            continue;
        }
        match doctor::has_feature(feature) {
            Some(true) => {}
            Some(false) => return Err(Error::Lacking(format!("feature {feature} is not there"))),
            None => {
                return Err(Error::Lacking(format!(
                    "feature {feature} is not one that cryopod uses"
                )));
            }
        }
    }
    Ok(())
}
