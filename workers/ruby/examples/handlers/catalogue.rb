# frozen_string_literal: true

require_relative "products"

# Importing a catalogue in batches: a step says how to split the file, a worker step is made for each batch, and a
# convergence joins what they counted.
module Catalogue
  extend TaskerCore::StepHandler::Functional

  batch_analyzer "catalogue.Split", worker_template: "import_batch",
                                    inputs: [:products_file] do |products_file, context|
    text = Files.read_text(products_file)
    TaskerCore::BatchConfig.new(total_items: Products.parse(products_file, text).size,
                                batch_size: context.batch_config["batch_size"],
                                metadata: { fingerprint: Files.fingerprint(text) })
  end

  batch_worker "catalogue.ImportBatch", inputs: [:products_file],
                                        depends_on: { found: "split" } do |products_file, found, batch_context|
    text = Files.read_text(products_file)
    if Files.fingerprint(text) != found.dig("batch_metadata", "fingerprint")
      raise Files.refused(products_file, "FILE_CHANGED", "changed between two steps of the same task")
    end

    Products.totals(Products.parse(products_file, text)[batch_context.start_cursor...batch_context.end_cursor])
  end

  step_handler "catalogue.Totals", depends_on: { found: "split" } do |found, context|
    batches = context.get_all_dependency_results("import_batch_").reject { |batch| batch["no_op"] }
    total = %w[products units stock_value_cents].to_h { |key| [key, batches.sum { |batch| batch[key] }] }
    expected = found["total_items"].to_i
    if total["products"] != expected
      raise TaskerCore::PermanentError, "#{total["products"]} of #{expected} products were imported"
    end

    { "batches" => batches.size, **total }
  end
end
