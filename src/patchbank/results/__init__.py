"""What is found about images, as data: results, explanations, audits. Who draws them stands above."""
