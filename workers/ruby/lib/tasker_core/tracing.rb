# frozen_string_literal: true

module TaskerCore
  # Lines for the log with fields beside them: `TaskerCore::Tracing.info("charged", task: context.task_uuid)`.
  module Tracing
    %i[error warn info debug].each do |level|
      define_singleton_method(level) do |message, fields = {}, **more|
        said = { **fields, **more }.map { |name, value| " #{name}=#{value.inspect}" }.join
        TaskerCore.logger.public_send(level, "#{message}#{said}")
      end
    end
  end
end
